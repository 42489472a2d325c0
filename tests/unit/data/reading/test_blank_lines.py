"""Blank lines in logs: skipped the same way by all that counts lines."""

from pathlib import Path

import pytest

from lumos_core.data.interactions import read_interactions
from lumos_core.data.node_folder import read_node
from lumos_core.data.removed_users import removal_of
from lumos_core.errors import DataError

ROWS = [f"u{n % 2},i{n % 3},{n}" for n in range(9)]


@pytest.mark.parametrize("blank", ["", "   ", "\t", ",,", " , , ", "\xa0", '"",""', '" "'])
@pytest.mark.parametrize("quoted", [False, True])
def test_rows_behind_a_blank_line_have_their_own_line(
    tmp_path: Path, blank: str, quoted: bool
) -> None:
    path = tmp_path / "log.csv"
    first = '"u""0",i1,9' if quoted or '"' in blank else "u0,i1,9"
    path.write_text("\n".join(["user,item,time", first, blank, *ROWS, blank, "u1,i1,late", ""]))
    with pytest.raises(DataError, match="line 14: found 'late': time is not a number"):
        read_interactions(path)
    path.write_text("\n".join([blank, "user,item,time", first, blank, *ROWS, blank]))
    table = read_interactions(path)
    assert len(table.frame) == 10
    assert table.place(9).endswith(": line 13")


def test_a_node_reads_and_forgets_around_blank_lines(tmp_path: Path) -> None:
    node = tmp_path / "node"
    node.mkdir()
    (node / "catalog.tsv").write_text("item_id\ttitle\ni0\tA\ni1\tB\ni2\tC\n")
    path = node / "interactions.csv"
    text = "\n".join(["user,item,time", *ROWS[:4], "   ", *ROWS[4:], " , ,", ""])
    path.write_text(text)
    assert read_node(node)[1].user_ids == ("u0", "u1")
    removal_of(node, ["u1"]).write()
    assert read_interactions(path, own=True).frame["user_id"].unique().to_list() == ["u0"]
    assert "   \n" in path.read_text(), "what is no record stays"
