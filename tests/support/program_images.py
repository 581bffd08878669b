"""Images of the cluster's own programs, for those that run in pods."""

from local_cluster.binaries import binary
from local_cluster.cache import cache_dir
from local_cluster.cluster import LocalCluster
from local_cluster.oci_archive import write_archive


def import_program(cluster: LocalCluster, image: str, program: str, *, called: str | None = None) -> None:
    """Make `image` with this program as its only file, under its own name or `called`, and import it."""
    path = binary(program)
    archive = cache_dir("images") / f"{path.parent.name}-{program}.tar"
    if not archive.exists():
        write_archive(archive, image, path, called=called)
    cluster.import_image(archive)
