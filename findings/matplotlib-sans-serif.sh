#!/usr/bin/env bash
# matplotlib 3.11.2: the family "sans-serif", its own default, is no family when it is named alone.
#
# `rcParams["font.family"]` is ["sans-serif"]. One expects FontProperties(family="sans-serif") to
# name it, as family="serif" and family="monospace" do. A single string is taken for a pattern of
# fontconfig's, though it is given as `family`, and a hyphen there begins the size: ValueError. In
# a list, or beside any other property, it is the family.
source "$(dirname "$0")/common"
install matplotlib==3.11.2 numpy==2.4.6
python - <<'END'
import sys

from matplotlib import rcParams
from matplotlib.font_manager import FontProperties


def families(**named):
    try:
        return FontProperties(**named).get_family()
    except Exception as error:
        return type(error).__name__


default = rcParams["font.family"]
alone = [families(family=name) for name in ("serif", "monospace", "sans-serif")]
listed = families(family=["sans-serif"])
beside = families(family="sans-serif", size=10)
print("seen: default", default, " serif, monospace, sans-serif alone:", alone, " in a list:",
      listed, " beside a size:", beside)
sys.exit([default, *alone, listed, beside] != [["sans-serif"], ["serif"], ["monospace"],
                                               "ValueError", ["sans-serif"], ["sans-serif"]])
END
