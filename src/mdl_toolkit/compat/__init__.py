"""What this package uses of other libraries' private interfaces, one module for each library.

Every function says what it does, which public way was tried and why it isn't enough, and the versions it was
tested with. Where the private interface is gone, each takes a way that is slower but right; where there is no
such way it fails with one line that names the library and its version. ``tests/compat`` checks both.
"""
