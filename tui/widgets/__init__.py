"""Small widgets. They draw what they are given and know nothing of runs or files."""
