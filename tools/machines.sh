#!/usr/bin/env bash
# Which Python starts with which GCC: a root of Debian's sid in a folder, and for each pair the
# doctor's check, a short demo and the sum of its packed file, in a table at the end. As root, with
# debootstrap installed; 4 GB, about five minutes a pair on 2 idle cores. It goes on with what is there.
#
#     tools/machines.sh FOLDER [PYTHON:GCC ...]      # default: 3.14:15 3.14:16 3.15:16
#
# UNIT=1 runs the unit part of the tests, too. MIRROR: Debian's, if not deb.debian.org.
set -euo pipefail

if [[ $# -eq 0 || $1 == -* ]]; then
    sed -n '2,/^set/p' "$0" | sed '$d; s/^# \{0,1\}//'
    exit $(( $# == 0 ? 2 : 0 ))
fi
[[ $EUID -eq 0 ]] || { echo "error: chroot and mount need root" >&2; exit 2; }
project=$(cd "$(dirname "$0")/.." && pwd)
mkdir -p "$1"
root=$(cd "$1" && pwd)
shift
pairs=("$@")
[[ $# -gt 0 ]] || pairs=(3.14:15 3.14:16 3.15:16)

if [[ ! -e $root/usr/bin/apt-get ]]; then
    command -v debootstrap > /dev/null || { echo "error: \`apt install debootstrap\`" >&2; exit 2; }
    debootstrap --variant=minbase --include=ca-certificates sid "$root" \
        "${MIRROR:-http://deb.debian.org/debian}"
fi
cp -L /etc/resolv.conf /etc/hosts "$root/etc/"
[[ ! -e /etc/ssl/certs/ca-certificates.crt ]] \
    || cp -L /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/"

mounted=()
unmount() {
    local place
    for place in "${mounted[@]}"; do umount -l "$place"; done
}
trap unmount EXIT
mkdir -p "$root/src"
for pair in /proc:/proc /dev:/dev /dev/pts:/dev/pts /sys:/sys "$project:/src"; do
    mount --bind "${pair%:*}" "$root${pair##*:}"
    mounted=("$root${pair##*:}" "${mounted[@]}")
done

packages=()
for pair in "${pairs[@]}"; do
    python=python${pair%:*}
    packages+=("$python" "$python-venv" "$python-dev" "g++-${pair#*:}")
done
chroot "$root" env DEBIAN_FRONTEND=noninteractive apt-get -qq install -y \
    --no-install-recommends "${packages[@]}" > /dev/null

# In the root: one pair, its home kept apart from the others'. Prints the row of the table last.
one() {
    set -uo pipefail
    local python=$1 gcc=$2 short=${1/./} right=yes sum=- unit=-
    local home=/homes/$short-$gcc environment=/venv$short run
    run=$home/run
    export HOME=$home cc_path=g++-$gcc OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE=1 LANG=C.UTF-8
    unset XDG_CACHE_HOME
    mkdir -p "$home" && rm -rf "$run" && cd /src
    [[ -d $environment ]] || python$python -m venv $environment
    $environment/bin/pip install -q -r requirements-dev.txt >&2
    $environment/bin/pip install -q --no-deps jittor==1.3.11.0 >&2
    $environment/bin/python -W error::DeprecationWarning -m toolchain --check --device cpu >&2 \
        || right=NO
    $environment/bin/python main.py --demo --num-epochs-base 2 \
        --num-epochs-base-finetune 1 --num-epochs-per-task 2 --num-epochs-finetune 1 \
        --output-dir "$run" >&2 \
        && sum=$(sha256sum "$run/packnet.safetensors" | cut -c 1-12)
    if [[ -n ${UNIT:-} ]]; then
        $environment/bin/python -m pytest -m unit -p no:cacheprovider >&2 && unit=yes || unit=NO
    fi
    echo "| $($environment/bin/python -c 'import platform, numpy
print(platform.python_version(), "|", numpy.__version__)') | $(g++-$gcc -dumpfullversion) \
| $right | $sum | $unit |"
}

rows=()
for pair in "${pairs[@]}"; do
    row=$(chroot "$root" env "UNIT=${UNIT:-}" \
        bash -c "$(declare -f one); one ${pair%:*} ${pair#*:}") \
        || row="| ${pair%:*} | - | ${pair#*:} | FAILED | - | - |"
    rows+=("$row")
done
echo "| Python | NumPy | GCC | doctor's check | packed file of the demo | unit part of the tests |"
echo "| --- | --- | --- | --- | --- | --- |"
printf '%s\n' "${rows[@]}"
