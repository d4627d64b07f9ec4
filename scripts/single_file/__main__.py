# The first code of the file that make_single_file.py makes: any Python can read it, also one that is too old.
import sys

if sys.version_info < (3, 11):
    sys.exit("harmonia-py needs Python 3.11 or later; this is %d.%d" % sys.version_info[:2])

# The module beside it in the archive.
from start import start  # type: ignore[import-not-found]

sys.exit(start())
