from pipelines.progress import bar


def test_off_a_terminal_the_first_and_the_last_line_are_printed_whatever_the_pace(capsys):
    with bar("curate", 3, "shards", every_s=1000) as line:
        for done in (0, 1, 2, 3, 3):
            line.at(done, f"{done * 10} rows")
    lines = capsys.readouterr().err.splitlines()
    assert [text.rsplit(",", 1)[0] for text in lines] == [
        "curate: 0/3 shards, 0 rows",
        "curate: 3/3 shards, 30 rows",
    ]


def test_the_estimate_counts_from_the_first_word_and_not_from_what_was_done_before(capsys, monkeypatch):
    clock = iter([0.0, 50.0, 60.0])
    monkeypatch.setattr("pipelines.progress.time.monotonic", lambda: next(clock, 60.0))
    with bar("curate", 8, "shards", done=4, every_s=0) as line:
        line.at(4)
        line.at(6)
    assert "6/8 shards, 0:01:00, about 0:00:10 left" in capsys.readouterr().err
