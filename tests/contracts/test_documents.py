"""Each document has one class, and the parts that import it are those that it names as its writer and its readers."""

import pytest

from documents import PARTS, ROOT, DocumentClass, documents, importers


@pytest.mark.parametrize("cls", documents(), ids=lambda cls: cls.__name__)
def test_a_document_names_its_writer_and_its_readers(cls: DocumentClass) -> None:
    assert cls.READERS, "what nobody reads need not be written"
    assert importers(cls) == {cls.WRITER, *cls.READERS}


def test_every_part_is_where_it_is_said_to_be() -> None:
    assert [folder for folder in PARTS.values() if not (ROOT / folder).is_dir()] == []


def test_the_table_of_the_architecture_names_every_class() -> None:
    page = (ROOT / "docs/architecture.md").read_text()
    assert [cls.__name__ for cls in documents() if f"`{cls.__name__}`" not in page] == []
