"""``python3 -m ch_image`` is ``ch-image``."""

from __future__ import annotations

import sys

from ch_image.cli.main import main

sys.exit(main())
