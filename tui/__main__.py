"""``python -m tui`` opens the app, as ``ecellm`` without a verb does."""

from __future__ import annotations

import sys

from ecellm_mlx.errors import EcellmError
from tui.app import main

try:
    main()
except EcellmError as error:
    sys.stderr.write(f"{error}\n")
    raise SystemExit(error.exit_status) from None
