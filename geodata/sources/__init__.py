"""Where pixels come from: one module a kind of source, each with functions that a corpus names by address."""
