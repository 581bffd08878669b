"""Why a deployment is ready or not, from raw objects: decisions without I/O, a clock or a terminal."""
