"""The doctor: python -m toolchain [--check]."""
import sys

from toolchain.doctor import main

sys.exit(main())
