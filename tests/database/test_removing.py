"""How many questions the removal of many objects takes."""

from pathlib import Path

from catalogs import NOW, hash_parts, later, opened_catalog, publication

from harmonia_py.catalog.caches import DEFAULT_CACHE
from harmonia_py.catalog.collection import Reason, Removed
from harmonia_py.catalog.objects import Document, DocumentKind
from harmonia_py.database.catalog import SqlCatalog
from harmonia_py.database.removing import remove
from harmonia_py.database.transaction import Transaction


async def test_documents_are_removed_together(tmp_path: Path) -> None:
    """Each listing of each object that went was asked for by itself: two more questions for every path."""
    async with opened_catalog("sqlite", tmp_path) as catalog:
        few, many = await _questions(catalog, "few", 2), await _questions(catalog, "many", 60)
        assert many <= few + 5, "a list has a longer form, and no object a question of its own"
        for kind in (DocumentKind.LISTING, DocumentKind.LOG):
            assert await catalog.objects.document(DEFAULT_CACHE, kind, "many-59", pending=True) is None


async def _questions(catalog: SqlCatalog, what: str, count: int) -> int:
    """How many questions it takes to remove so many objects with two documents each."""
    names = [f"{what}-{number}" for number in range(count)]
    for name in names:
        await catalog.objects.publish(publication(DEFAULT_CACHE, name), now=NOW)
        for kind in (DocumentKind.LISTING, DocumentKind.LOG):
            document = Document(kind=kind, name=name, size=1, body=b"x")
            await catalog.uploads.attach(DEFAULT_CACHE, None, document, hash_parts([name]), now=NOW)
    await catalog.collection.condemn(
        DEFAULT_CACHE, set(hash_parts(names)), Reason.UNUSED, unused_since=later(1), now=later(1)
    )
    questions = 0

    def counted() -> Transaction[Removed]:
        nonlocal questions
        transaction, rows = remove(DEFAULT_CACHE, later(1), 1000, later(1)), None
        try:
            while True:
                statement = next(transaction) if rows is None else transaction.send(rows)
                questions += 1
                rows = yield statement
        except StopIteration as stop:
            removed: Removed = stop.value
            return removed

    assert len((await catalog.database.write(counted)).objects) == count
    return questions
