"""The doctor: python -m toolchain [--check]."""
from system import processes
from toolchain.doctor import main

processes.leave(main())
