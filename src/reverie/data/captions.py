"""Words about the images of a folder: NAME.txt, tables (CSV, JSON lines, Parquet) and COCO's JSON."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import PurePosixPath

from reverie.core.errors import ReverieError, UsageError, argument
from reverie.core.terminal import count, printable
from reverie.data import headers, tables, words
from reverie.data.annotations import READERS, read_annotations
from reverie.data.coco import add_rows, coco_rows
from reverie.data.finder import Finder, composed
from reverie.data.items import LARGEST_CAPTION, File, Item, split_of
from reverie.data.labels import label_value
from reverie.data.lists import read_lists
from reverie.data.naming import FOUND, Columns, captions_of
from reverie.data.row_labels import clear_rows, labels_in, several_in
from reverie.data.tree import stem, suffix
from reverie.data.types import Problem
from reverie.data.words import Row
from reverie.media.decode import SUFFIXES

LARGEST_TABLE = 2 << 30  # bytes


class Captions:
    """Captions, labels and attributes from the text files of a source.

    Args:
        files: every file, relative path -> File.
        problems: unreadable rows, and rows of missing images, are appended here.
        columns: which columns of tables are the file's name, the label and the text.
        images: what tables are about, and texts beside; None: the files with an image's suffix.

    Raises:
        UsageError: no table has such a column.

    Attributes:
        rows: image -> its row: "text" (a list of captions), "label" (a name, a number or a list of them), and others.
        written: image -> the values of the columns that became its name, text and label, under the table's own names.
        tables: the files that rows are from.
        splits: image -> the name of its split, such as "val", where tables say it.
        divides: whether the splits count more than those of folders.
    """

    def __init__(
        self,
        files: dict[str, File],
        problems: list[Problem],
        columns: Columns = FOUND,
        images: Iterable[str] | None = None,
    ):
        self.files, self.problems, self.columns = files, problems, columns
        self._named: dict[str, tables.Table] = {}
        self._varying: set[str] = set()  # columns with another value in each of an image's rows
        self._texts_of: dict[str, dict[str, None]] = {}  # of images with several rows in the table that is read
        self._odd_rows: dict[str, tuple[int, str]] = {}  # reason -> count of rows of that table, and words on the first
        self.rows: dict[str, Row] = {}
        self.written: dict[str, Row] = {}
        self.tables: dict[str, int] = {}
        self._about: dict[str, set[str]] = {}  # table -> images
        self._find = Finder([name for name in files if suffix(name) in SUFFIXES] if images is None else images)
        self._ignored: set[str] = set()  # tables that have a line of their own
        self._delimiter = ""  # of the table that is read
        self._with_commas: set[str] = set()  # columns whose commas are of decimals: of tables divided by others
        self._guessed = ("", "")  # columns of the table that is read: of the image and of the label, by their values
        tables_of_text = self._tables_of_text()
        for name in files:
            if columns.rules > 2 and name.rpartition("/")[2].lower() in READERS:
                continue
            if suffix(name) in headers.TABLE_ENDINGS or name in tables_of_text:
                self._read_table(name)
            elif suffix(name) == ".json":
                self._read_json(name)
        named = dict.fromkeys(name for table in self._named.values() for name in table.columns)
        columns.check(named, "The table" if named else "The source has no table, and")
        if columns != FOUND and not self.tables:
            image = argument("columns", "image=COLUMN")
            raise UsageError(f"No table names the images of the source. {image} is the column of their files' names.")
        kept = len(problems)
        self._published = read_annotations(list(files), self._read_text, self._find)
        about_images = {printable(name) for name in self._published.used}
        problems[kept:] = [problem for problem in problems[kept:] if problem.file in about_images]
        if columns.rules > 2:
            lists = read_lists(files, list(self._find.images), self._read_text, self._published, self.rows)
            problems += [Problem(printable(name), "table", action) for name, action in lists]
        for image, row in self._published.rows.items():
            self.rows[image] = {"text": [], "label": None} | self.rows.get(image, {}) | row
        self.tables |= self._published.used
        self._split_column, self.splits = ("", {}) if columns.rules < 3 else tables.splits_of(self.rows, self._about)
        self.splits |= self._published.splits
        self.divides = columns.rules > 2 and bool(self.splits)
        for name, lost in self._published.lost.items():
            self._report(name, "bad-caption", f"skipped: it names {count(lost, 'missing image')}")
        self._boxes = False
        self._texts = {_stem(name): name for name in files if suffix(name) in headers.TEXT_ENDINGS}
        if twice := sum(_stem(image) in self._texts for image, row in self.rows.items() if any(row["text"])):
            action = f"used: {count(twice, 'image')} with captions in a table and in a file beside; the table's count"
            self._report("*", "bad-caption", action)
        self._unlabelled = clear_rows(self.rows, problems, columns.rules)
        self._names_of_labels = several_in(self.rows, problems)

    @cached_property
    def _stems(self) -> set[str]:
        """Of the images."""
        return {_stem(image) for image in self._find.images}

    def used(self, images: Iterable[str]) -> set[str]:
        """The files that are about the images: tables, and texts with an image's stem."""
        return {
            *self.tables,
            *self._ignored,
            *(text for image in images if self._texts and (text := self._text_beside(image))),
        }

    def describe(self, item: Item, name: str) -> Item:
        """The item with its captions, and its label if a table has one."""
        row = self.rows.get(name, {})
        if not row and not self._texts and not self.splits:
            return item
        texts = [" ".join(str(text).split()) for text in row.get("text", [])]
        if not any(texts) and (file := self._text_beside(name)):
            text = self._read_text(file, LARGEST_CAPTION)
            texts = [" ".join(text.split())]
            if self.columns.rules > 2 and words.are_boxes(text):
                texts = []
                if not self._boxes:
                    self._report(file, "ignored", "ignored: boxes of YOLO, no caption; and so are texts like it")
                self._boxes = True
        texts = [text for text in texts if text]
        label = row.get("label")
        if self._names_of_labels:
            label = None
        elif isinstance(label, list):
            label = label[0] if label else None
        label = label_value(label)
        label = item.label if label is None and name not in self._unlabelled else label
        several = tuple(texts) if len(texts) > 1 else ()
        split = split_of(self.splits.get(name, "")) or item.split or self._published.rest
        return replace(item, text=texts[0] if texts else "", texts=several, label=label, split=split)

    def attributes(self, images: Iterable[str]) -> tuple[list[str], dict[str, tuple[float, ...]]]:
        """The numeric columns in the tables' order, and each image's values; 0 for a missing one.

        Where images have several labels, each label is an attribute, 0 or 1.
        """
        images = list(images)
        if not self.rows:
            return [], dict.fromkeys(images, ())
        numbers, notes = tables.numbers_of(self.rows, self.columns.rules < 3, self._with_commas)
        for name, (kind, action) in notes.items():
            self._report(name, kind, action)
        names = [*numbers]
        if self.columns.rules > 1:
            names = [name for name in names if name not in self._varying and not tables.is_running(name, numbers[name])]
        roles = {"text": self._texts_of_tables, "label": headers.LABELS}
        for about in (self._named[name] for name in self.tables if name in self._named):
            self.problems += about.unused([*names, *notes, *self._varying, self._split_column], roles, self.columns)
        for name in sorted(self._varying):
            self._report(name, "ignored", "ignored: it differs between the rows of an image")
        for name in names:
            if gaps := [image for image in images if image not in numbers[name]]:
                some = f"{count(len(gaps), 'image')} without a value, the first {printable(gaps[0])}"
                self._report(name, "missing-attribute", f"used: 0 for {some}")
        labels = {image: {str(label) for label in labels_in(self.rows.get(image, {}))} for image in images}
        by_image = {
            image: (
                *(numbers[name].get(image, 0.0) for name in names),
                *(float(label in labels[image]) for label in self._names_of_labels),
            )
            for image in images
        }
        return [*names, *self._names_of_labels], by_image

    def summary(self) -> str:
        """The tables in words for the report, such as "; metadata.csv about 12 images"."""
        return "".join(f"; {printable(name)} about {count(n, 'image')}" for name, n in self.tables.items())

    # Texts beside images

    def _text_beside(self, image: str) -> str | None:
        """7.txt of 7.jpg, or 7.jpg.txt."""
        return self._texts.get(_stem(image)) or (self._texts.get(composed(image)) if self.columns.rules > 2 else None)

    def _read_text(self, name: str, most: int = LARGEST_TABLE) -> str:
        if self.files[name].size > most:
            self._report(name, "bad-caption", f"skipped: over {most >> 20:,} MiB of text")
            return ""
        try:
            data = self.files[name].read()
        except OSError as error:
            self._report(name, "unreadable", f"caption skipped: {error.strerror or error}")
            return ""
        text, assumed = words.decode_text(data)
        if assumed:
            self._report(name, "bad-caption" if assumed.startswith("not") else "encoding", f"used: {assumed}")
        return text

    # Tables

    def _tables_of_text(self) -> set[str]:
        """The .txt files beside no image that have a table's header."""
        texts = [name for name in self.files if suffix(name) == ".txt" and self.columns.rules > 1]
        return {name for name in texts if _stem(name) not in self._stems and self._has_header(name)}

    def _has_header(self, name: str) -> bool:
        """Whether the first line is several names of columns, one of them that of the image."""
        try:
            text, _ = words.decode_text(self.files[name].head()[: 1 << 12])
        except OSError:
            return False
        header = words.read_header(text)
        return len(header) > 1 and (
            self.columns.image in header or headers.usual_column(header, headers.FILES) is not None
        )

    def _read_table(self, name: str) -> None:
        must, kept = PurePosixPath(name).name.lower() in headers.TABLES, len(self.problems)
        self._texts_of, self._odd_rows, self._guessed, self._delimiter = {}, {}, ("", ""), ""
        if self.columns.rules > 2 and tables.is_sample(name):
            self._ignored.add(name)
            return self._report(name, "ignored", "ignored: an example of answers")
        try:
            head = None if must or self.columns != FOUND else tables.first_rows(self.files[name], name)
            if head is not None and not self._is_about_images(name, head):
                return
            rows, notes = self._rows_of(name)
        except (OSError, ReverieError) as error:
            rows, notes = [], [("bad-caption", f"skipped: {error}")]
        table = tables.Table(name, dict.fromkeys(str(column) for row in rows for column in row if column))
        if self.columns != FOUND:
            self._named[name] = table
        if not self._is_about_images(name, rows) or not self._are_names(name, rows):
            self._guessed = ("", "")
            if not must:
                del self.problems[kept:]
                return
        self._named[name] = table
        if self._delimiter in (";", "\t"):
            self._with_commas.update(table.columns)
        for kind, note in notes:
            self._report(name, kind, note)
        if self._guessed[1]:
            self._report(name, "columns", f"used: {printable(self._guessed[1])} as the label, the only other column")
        for row in rows:
            self._add_row(table, row)
        self.tables[name], self._about[name] = len(table.images), table.images
        for number, first in self._odd_rows.values():
            self._report(name, "bad-caption", first + f"; {count(number - 1, 'more row')} likewise" * (number > 1))
        for column, n in table.other.items():
            others = "give other captions; all are kept" if column == "text" else f"give another {column}; this counts"
            self._report(name, "table", f"used: of {count(n, 'image')} earlier tables {others}")

    def _rows_of(self, name: str) -> tuple[list[Row], list[tuple[str, str]]]:
        if suffix(name) == ".parquet":
            return words.read_parquet(self.files[name].read(), printable(name)), []
        text = self._read_text(name)
        if suffix(name) == ".jsonl":
            return words.read_jsonl(text), []
        if suffix(name) == ".json":
            return words.read_objects(text)
        self._delimiter = words.delimiter_of(text)
        texts = (*self._texts_of_tables, *filter(None, [self.columns.text.lower()]))
        return words.read_csv(text, texts, self.columns.rules)

    @property
    def _texts_of_tables(self) -> tuple[str, ...]:
        return (*headers.TEXTS, *headers.COMMENTS) if self.columns.rules > 1 else headers.TEXTS

    def _is_about_images(self, table: str, rows: Sequence[Row]) -> bool:
        """Whether at least half of its first rows name images."""
        some, folder = rows[: tables.SAMPLED], PurePosixPath(table).parent
        if self.columns.rules > 2 and some:
            self._guessed = ("", "")
            image = (
                "" if self._file_column(some[0]) else tables.column_of_images(some, lambda row: self._find(folder, row))
            )
            usual = headers.usual_column(some[0], (*headers.LABELS, *headers.CLASSES, *self._texts_of_tables))
            self._guessed = (image, tables.column_of_labels(rows, image) if image and not usual else "")
        hits = sum(self._image_of(table, row) is not None for row in some)
        return bool(hits) and 2 * hits >= len(some)

    def _are_names(self, table: str, rows: Sequence[Row]) -> bool:
        """Whether digits in a guessed column, or in JSON, are names of images."""
        column = self._file_column(rows[0])
        if self.columns.rules < 3 or self.columns.image or not (self._guessed[0] or suffix(table) == ".json"):
            return True
        return tables.are_names([str(row.get(column or "")) for row in rows], PurePosixPath(table).parent, self._find)

    def _image_of(self, table: str, row: Row) -> str | None:
        column = self._file_column(row)
        name = row.get(column) if column else None
        return self._find(PurePosixPath(table).parent, name) if isinstance(name, str) and name else None

    def _file_column(self, row: Row) -> str | None:
        named = self.columns.image
        usual = named if named and named in row else headers.usual_column(row, headers.FILES)
        return usual or (self._guessed[0] if self._guessed[0] in row else None)

    def _add_row(self, table: tables.Table, row: Row) -> None:
        line = row.pop("", 0)
        column = self._file_column(row)
        if column is None or not isinstance(row[column], str) or not row[column]:
            self._report_row("no name", f"skipped: row {line} has no file_name")
            return
        image = self._image_of(table.name, row)
        if image is None:
            missing = f"{printable(row[column])}, {self._find.lost(row[column])}"
            self._report_row("missing", f"skipped: row {line} names {missing}")
            return
        texts = self.columns.text or headers.usual_column(row, self._texts_of_tables)
        labels = self.columns.label or headers.usual_column(row, headers.LABELS)
        if self.columns.rules > 2:
            labels = labels or headers.usual_column(row, headers.CLASSES) or (self._guessed[1] or None)
        table.taken |= {"image": column, "text": texts, "label": labels}
        others = {str(name): value for name, value in row.items() if name not in (column, texts, labels)}
        captions, label = captions_of(row.get(texts) if texts else None), row.get(labels) if labels else None
        before = self.rows.get(image)
        again = before is not None and (image in table.images or self.columns.rules == 1)
        if before is not None and captions and captions != before["text"]:  # one caption a row, several rows an image
            if again:
                self._varying.update(name for name, value in others.items() if before.get(name) != value)
            elif before["text"]:
                table.other["text"] = table.other.get("text", 0) + 1
            if image not in self._texts_of:
                self._texts_of[image] = dict.fromkeys(before["text"])
                before["text"] = [*self._texts_of[image]]
            more = [text for text in dict.fromkeys(captions) if text not in self._texts_of[image]]
            self._texts_of[image].update(dict.fromkeys(more))
            captions = before["text"]
            captions += more
        elif again:
            self._report_row("repeated", f"used: row {line} repeats {printable(image)}; the last row counts")
            self._texts_of.pop(image, None)
        new = {**others, "text": captions, "label": label}
        if before is not None and not again:
            new = {name: value for name, value in new.items() if name not in before or value not in (None, "", [])}
            for name, value in new.items():
                if name != "text" and before.get(name) not in (None, "", value):
                    table.other[name] = table.other.get(name, 0) + 1
        table.images.add(image)
        self.rows[image] = {**(before or {}), **new}
        roles = {column: row[column], texts: captions, labels: label}
        self.written[image] = self.written.get(image, {}) | {str(name): roles[name] for name in roles if name}

    def columns_of(self, image: str) -> Row:
        """The row of an image, also by the table's own names of columns."""
        row = self.rows.get(image, {})
        return self.written[image] | row if image in self.written else row

    def _read_json(self, name: str) -> None:
        """COCO's JSON, or a table in JSON."""
        file, folder = self.files[name], PurePosixPath(name).parent
        if file.size > LARGEST_TABLE:
            return
        try:
            of_coco, table = tables.kinds_of_json(file, lambda image: self._find(folder, image) is not None)
            table = table and self.columns.rules > 2 and _stem(name) not in self._stems
            text = words.decode_text(file.read())[0] if of_coco or self.columns.rules < 3 else ""
        except OSError:
            return
        if '"annotations"' not in text or '"images"' not in text:
            if table and file.size > tables.LARGEST_JSON:
                self._ignored.add(name)
                self._report(name, "ignored", f"ignored: a table in JSON of over {tables.LARGEST_JSON >> 20} MiB")
            elif table:
                self._read_table(name)
            return
        subset = PurePosixPath(name).stem if self.columns.rules > 1 else ""
        rows, lost = coco_rows(text, lambda image: self._find(folder, image, subset))
        add_rows(self.rows, rows)
        if rows:
            self.tables[name], self._about[name] = len(rows), {*rows}
        if rows and lost:
            self._report(name, "bad-caption", f"skipped: it names {count(lost, 'missing image')}")

    def _report_row(self, reason: str, action: str) -> None:
        """Report a row of the table that is read; of several for one reason the first, with their count."""
        number, first = self._odd_rows.get(reason, (0, action))
        self._odd_rows[reason] = number + 1, first

    def _report(self, name: str, kind: str, action: str) -> None:
        self.problems.append(Problem(printable(name), kind, action))


def _stem(name: str) -> str:
    return composed(stem(name))
