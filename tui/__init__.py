"""The terminal interface: a face of the engine, made with Textual.

It starts jobs and reads what they write, and never loads mlx or transformers in
its own process. The dependency runs one way: ``ecellm_mlx`` knows nothing of it.
"""
