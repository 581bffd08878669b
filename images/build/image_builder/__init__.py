"""Builds the project's images without Docker: buildah on a Debian base, each image once per content.

    python -m image_builder engine-cpu|operator|node|quantiser-cpu|base|all [--print-path]

`layout` says which images there are; `dockerfile` cuts a Dockerfile to the stages that an image needs and turns them
and the files they copy into a key; `build` makes what is missing; `buildah` and `debian` drive the two programs that
this takes.
"""
