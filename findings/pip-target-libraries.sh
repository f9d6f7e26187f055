#!/usr/bin/env bash
# pip 26.3: `pip install --target FOLDER` leaves out a wheel's lib/, and says that all went well.
#
# oneDNN's wheel brings its libraries as data, lib/libdnnl.so.2. One expects them in FOLDER/lib.
# There are none: pip skips a folder of data that would hold its own lib/python. Exit code 0, no
# message, and the RECORD beside it lists the files. In a virtual environment they come.
source "$(dirname "$0")/common"
install pip==26.3
add onednn-cpu-gomp==2022.2.1
pip install --quiet --target target onednn-cpu-gomp==2022.2.1 2> pip.log && code=0 || code=$?
into_env=$(ls env/lib | grep -c libdnnl) || true
into_target=$(find target -name 'libdnnl*' | wc -l)
recorded=$(cat target/*.dist-info/RECORD | grep -c libdnnl) || true
echo "seen: exit code $code; libraries in the environment: $into_env, in the target:" \
     "$into_target, in the target's RECORD: $recorded"
[[ "$code $into_env $into_target $recorded" == "0 3 0 3" ]]
