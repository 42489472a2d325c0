"""What to do about a failure: for the reasons that a history holds, a sentence for whoever runs the
server. docs/operations.md has the same in more words ("Symptom, cause, fix")."""

import re

_BY_CODE = {
    "catalog-mismatch": "Give the node the run's catalog.tsv and prepare its data with it: "
    "lumos prepare LOG --items catalog.tsv --out mine --nodes 1 --k-core 0 --keep-all-items",
    "foreign-app": "Install the server's release of LUMOS on the node, or let the node's owner "
    "approve this app (approved-apps in node.toml).",
    "paused": "The node's owner has paused it. It takes part again when they resume it "
    "('lumos node resume' there); it is asked again by itself.",
    "other-protocol": "Install a release of LUMOS on the node that speaks the server's protocol.",
    "ledger-failed": "Make room on the node's disk; if there is room, its spent.json is damaged "
    "and node.log says so.",
    "storage-failed": "Look at the node's disk: whether it is full, and whether its state folder "
    "may be written.",
    "out-of-memory": "Give the node more memory, or lower batch-size.",
    "artefact-refused": "Copy catalog.safetensors to the node again, or remove it there: the node "
    "then reads the titles itself, as it does at once if the file came from the server. Its "
    "terminal says what is wrong with the file.",
    "bad-data": "Run 'lumos node check' on the node: it names the file and line that is wrong.",
    "bad-configuration": "Look at the node's terminal: it names the key that does not fit.",
    "model-failed": "Run 'lumos doctor' on the node: its language model cannot be used.",
    "secagg-refused": "Nothing was sent. Secure aggregation would not have protected this node, or "
    "its owner requires it; start more nodes, or set secure-aggregation = true.",
    "bad-instruction": "The node did not understand the server: compare their releases with "
    "'lumos --version'.",
    "internal-error": "Look at node.log in the node's state folder, which has the whole error.",
    "node-unavailable": "Look at the node's terminal and its network; it comes back by itself.",
}
"""By a node's error code (client_app.error_codes), and the server's own for a node that is gone."""

_FLOOR = re.compile(r"below-floor-([a-z-]+)")
_CODE = re.compile(r"error '([a-z0-9-]+)")
_BY_TEXT = (
    ("no reply before the deadline",
     "It is slow or cut off: look at its terminal. If it is slow, raise round-timeout or lower "
     "its view-seconds."),
    ("does not answer", "Look at the node's terminal and its network; it is asked again."),
    ("too large", "It is left out of the next rounds; compare its release and configuration with "
     "the server's, and ask its owner whether its program was changed."),
    ("malformed", "Compare its release with the server's; if they are the same, ask its owner "
     "whether its program was changed."),
    ("its catalog is", _BY_CODE["catalog-mismatch"]),
    ("out of line with the others", "Look at its data with 'lumos node check'; the run goes on."),
    ("valid replies of", "The reasons of the single nodes say what to do; the model stayed as it "
     "was. The run goes on until more than max-failed-rounds rounds fail in a row."),
    ("does not choose it", "The run's key 'nodes' leaves it out. To have it, change the key, or "
     "let its owner add a tag in node.toml."),
    ("privacy budget", "Raise max-epsilon if the owners agree, and start the same command again."),
)  # fmt: skip
_INSTALL = re.compile(r"install\b.*", re.IGNORECASE)
_ANYTHING = "Look at the node's terminal, and at node.log in its state folder."


def advice_for(reason: str) -> str:
    """What to do about a reason of the history; one or two sentences."""
    if floor := _FLOOR.search(reason):
        key = floor.group(1)
        return (
            f"The run asks for more than the node's owner allows ({key} in node.toml). Agree with "
            f"the owner, or change the run; 'lumos node policy' on the node shows the limit."
        )
    if (code := _CODE.search(reason)) and code.group(1) in _BY_CODE:
        return _BY_CODE[code.group(1)]
    if "error 'flower-" in reason:
        return _BY_CODE["node-unavailable"]
    for text, advice in _BY_TEXT:
        if text in reason:
            return advice
    if _INSTALL.search(reason):
        return ""  # the reason says it itself
    return _ANYTHING
