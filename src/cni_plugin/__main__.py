"""``python -m cni_plugin`` and, as a zip application, the executable in /opt/cni/bin."""

import sys

from cni_plugin.main import main

sys.exit(main())
