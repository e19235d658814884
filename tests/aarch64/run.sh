#!/bin/bash
# Run a command on AArch64 in this checkout: as it is on such a machine, elsewhere emulated by qemu in user mode.
#
#   tests/aarch64/run.sh                     build the environment, if it is not there (1.3 GB, some minutes)
#   tests/aarch64/run.sh COMMAND [ARG...]    the same, then run COMMAND in it
#
# The environment is .aarch64/ in the checkout (AARCH64_DIR), beside which nothing is installed: packages are unpacked
# there, and the emulator is registered in a namespace of its own. Delete it to have it built anew.
# The guest is a Neoverse N1; QEMU_CPU= has the emulator's default, which LLVM takes for "generic".
# GUEST_ENV="A=1 B=2" sets variables for the command.
# Needs root or unprivileged user namespaces, Linux 6.7 or newer (binfmt_misc in a user namespace), Debian's apt and
# dpkg, and pip (of PYTHON).
set -euo pipefail
src=$(cd "$(dirname "$0")/../.." && pwd)
python=${PYTHON:-python3}

if [ "$(uname -m)" = aarch64 ]; then
    cd "$src"
    PATH=$src/.venv/bin:$PATH exec "$@"
fi

dir=${AARCH64_DIR:-$src/.aarch64}
root=$dir/root
debian_packages="base-files bash coreutils findutils gcc git grep libc6-dev libgcc-s1 libstdc++6 make python3 sed tar zlib1g"

# Apt with a state of its own, for another architecture than the machine's.
write_apt_config() {
    mkdir -p "$dir"/apt/{lists,cache/archives}/partial "$dir/apt/sources"
    cp /etc/apt/sources.list.d/*.sources /etc/apt/sources.list.d/*.list /etc/apt/sources.list "$dir/apt/sources/" 2> /dev/null || true
    : > "$dir/apt/status"
    cat > "$dir/apt/apt.conf" <<CONF
APT::Architecture "arm64";
APT::Architectures { "arm64"; };
APT::Install-Recommends "false";
APT::Sandbox::User "root";
Dir::State "$dir/apt";
Dir::State::lists "$dir/apt/lists";
Dir::State::status "$dir/apt/status";
Dir::Cache "$dir/apt/cache";
Dir::Etc::sourcelist "/dev/null";
Dir::Etc::sourceparts "$dir/apt/sources";
CONF
}

unpack_emulator() {
    mkdir -p "$dir/host"
    (cd "$dir/host" && apt-get download -q qemu-user-static && dpkg -x qemu-user-static_*.deb .)
}

# What the packages' own scripts would make is made here; they are not run.
unpack_system() {
    write_apt_config
    APT_CONFIG=$dir/apt/apt.conf apt-get update -q
    # shellcheck disable=SC2086
    APT_CONFIG=$dir/apt/apt.conf apt-get install -q -y --download-only $debian_packages
    mkdir -p "$root"/usr/{bin,sbin,lib} "$root"/{proc,sys,dev,tmp,src,root,opt/python,etc}
    for link in bin sbin lib; do ln -sfn "usr/$link" "$root/$link"; done
    for package in "$dir"/apt/cache/archives/*.deb; do
        dpkg-deb --fsys-tarfile "$package" | tar -x -C "$root" --keep-directory-symlink --no-same-owner
    done
    printf 'root:x:0:0:root:/root:/bin/bash\n' > "$root/etc/passwd"
    printf 'root:x:0:\n' > "$root/etc/group"
    ln -sfn bash "$root/usr/bin/sh"
}

# What pyproject.toml names for running and testing, fetched by this machine's pip for the guest's Python.
unpack_python_packages() {
    local version platforms=() needs
    version=$(ls "$root/usr/bin" | sed -n 's/^python\(3\.[0-9]*\)$/\1/p' | head -1)
    for libc in 2_28 2_27 2_26 2_17; do platforms+=(--platform "manylinux_${libc}_aarch64"); done
    mapfile -t needs < <("$python" - "$src/pyproject.toml" <<'PY'
import sys, tomllib

project = tomllib.load(open(sys.argv[1], "rb"))["project"]
tools = [need for need in project["optional-dependencies"]["dev"] if not need.startswith(("pyright", "ruff"))]
print(*project["dependencies"], *tools, sep="\n")
PY
)
    "$python" -m pip install --quiet --disable-pip-version-check --only-binary=:all: --implementation cp \
        "${platforms[@]}" --platform manylinux2014_aarch64 --python-version "$version" \
        --target "$root/opt/python" --upgrade "${needs[@]}"
}

# What Linux tells on a Neoverse N1: LLVM knows the processor by it, and the emulator shows the host's.
write_cpuinfo() {
    for cpu in 0 1; do
        printf 'processor\t: %s\nBogoMIPS\t: 50.00\nFeatures\t: %s\n' $cpu \
            "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp ssbs"
        printf 'CPU implementer\t: 0x41\nCPU architecture: 8\nCPU variant\t: 0x3\nCPU part\t: 0xd0c\nCPU revision\t: 1\n\n'
    done > "$dir/neoverse-n1.cpuinfo"
    grep -v '^CPU part' "$dir/neoverse-n1.cpuinfo" > "$dir/generic.cpuinfo"
}

if [ ! -e "$dir/done" ]; then
    mkdir -p "$dir"
    unpack_emulator
    unpack_system
    unpack_python_packages
    write_cpuinfo
    touch "$dir/done"
fi
[ $# -gt 0 ] || exit 0

QEMU_CPU=${QEMU_CPU-neoverse-n1}
cpuinfo=$dir/neoverse-n1.cpuinfo
[ "$QEMU_CPU" = neoverse-n1 ] || cpuinfo=$dir/generic.cpuinfo
magic='\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00'
mask='\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff'
[ -n "$QEMU_CPU" ] || unset QEMU_CPU
export root src cpuinfo ${QEMU_CPU:+QEMU_CPU}
export rule=":aarch64:M::$magic:$mask:$dir/host/usr/bin/qemu-aarch64-static:OCF"
exec unshare --user --map-root-user --mount --fork bash -euc '
    mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc
    printf "%s" "$rule" > /proc/sys/fs/binfmt_misc/register
    for folder in proc sys dev; do mount --rbind /$folder "$root/$folder"; done
    mount -t tmpfs tmp "$root/tmp"
    mount --bind "$src" "$root/src"
    mount --bind "$cpuinfo" "$root/proc/cpuinfo"
    exec chroot "$root" /usr/bin/env -i HOME=/root PATH=/usr/bin:/usr/sbin LANG=C.UTF-8 TERM=dumb \
        ${QEMU_CPU:+QEMU_CPU=$QEMU_CPU} PYTHONPATH=/src:/opt/python ${GUEST_ENV:-} \
        /bin/bash -c "cd /src && exec \"\$@\"" bash "$@"
' bash "$@"
