"""OCI containers (runtime-spec 1.0 to 1.3) of an ordinary user: bundles, states, the lifecycle.

``config`` has the types, ``spec`` reads and checks config.json, ``states`` keeps what must be
remembered between two commands, ``container`` has the operations. What goes on inside, between
fork and exec, is ``ch_image.sandbox``'s.
"""
