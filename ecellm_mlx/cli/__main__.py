"""``python -m ecellm_mlx.cli`` is the ``ecellm`` command."""

from ecellm_mlx.cli import main

main()
