"""Each document has one class, which names its writer and its readers. Exactly these parts import it."""

import pytest

from documents import OTHERS, PARTS, ROOT, DocumentClass, OtherDocument, documents, importers


@pytest.mark.parametrize("cls", documents(), ids=lambda cls: cls.__name__)
def test_a_document_names_its_writer_and_its_readers(cls: DocumentClass) -> None:
    assert cls.READERS, "a document that nobody reads need not be written"
    assert importers(cls) == {cls.WRITER, *cls.READERS}


def test_the_folder_of_every_part_exists() -> None:
    assert [folder for folder in PARTS.values() if not (ROOT / folder).is_dir()] == []


def test_the_table_of_the_architecture_names_every_class() -> None:
    page = (ROOT / "docs/architecture.md").read_text()
    assert [cls.__name__ for cls in documents() if f"`{cls.__name__}`" not in page] == []


@pytest.mark.parametrize("other", OTHERS, ids=lambda other: other.name)
def test_another_document_has_one_owner_and_a_row_in_the_table(other: OtherDocument) -> None:
    assert other.is_defined
    assert {other.writer, *other.readers} <= PARTS.keys()
    assert other.name in (ROOT / "docs/architecture.md").read_text()
