"""densevit/reporting/html_page.py: tables of numbers with bars, and paragraphs about missing content."""

from densevit.reporting.html_page import Text, missing, table, text_table


def test_missing_content_is_a_soft_paragraph() -> None:
    assert missing("There is no metrics.json.") == Text("There is no metrics.json.", soft=True)


def test_fractions_have_four_decimals_and_bars_whole_numbers_commas() -> None:
    found = table([["class", "AP", "count"], ["cat", 0.25, 1234], ["dog", float("nan"), 5]], best=[[1]])
    assert [[cell.text for cell in row] for row in found.rows] == [["cat", "0.2500", "1,234"], ["dog", "–", "5"]]
    assert [cell.share for cell in found.rows[0]] == [None, 0.25, None] and found.rows[0][1].best
    relative = table([["class", "error"], ["a", 0.1], ["b", 0.2]], relative=True)
    assert [row[1].share for row in relative.rows] == [0.5, 1.0]


def test_a_table_of_texts_shows_numbers_as_they_are() -> None:
    assert [cell.text for cell in text_table([["key"], ["0.50000"]]).rows[0]] == ["0.50000"]
