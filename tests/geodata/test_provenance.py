import json
import os
import re

import numpy as np

from geodata.provenance import provenance


def test_provenance_is_json_and_names_what_ran():
    values = json.loads(json.dumps(provenance()))
    assert values["python"].startswith("3.") and values["cpus"] == os.cpu_count()
    assert values["packages"]["numpy"] == np.__version__ and "ray" in values["packages"]
    assert values["commit"] is None or re.fullmatch(r"[0-9a-f]{12}\+?", values["commit"])
