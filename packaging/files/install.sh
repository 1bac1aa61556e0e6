#!/bin/sh
# Installs this tree on a node that has no package manager for it, or removes it again.
#
#   ./install.sh             install, or upgrade what is installed
#   ./install.sh --remove    remove the programs; state and configuration stay
set -eu
[ "$(id -u)" = 0 ] || { echo "install.sh: only root can do this" >&2; exit 1; }
here=$(cd "$(dirname "$0")" && pwd)
list=/usr/share/doc/ferroflux/installed-files
case ${1-} in
"")
    # Programs that run keep the file they have: each is replaced by renaming.
    (cd "$here/tree" && find . \( -type f -o -type l \) -print) | while read -r file; do
        target=/${file#./}
        mkdir -p "$(dirname "$target")"
        cp -a "$here/tree/$file" "$target.new-$$"
        chown -h root:root "$target.new-$$"
        # chown clears the setuid bit.
        [ -h "$target.new-$$" ] || chmod "$(stat -c %a "$here/tree/$file")" "$target.new-$$"
        mv -f "$target.new-$$" "$target"
    done
    (cd "$here/tree" && find etc -type d -print) | while read -r directory; do
        mkdir -p "/$directory"
    done
    (cd "$here/tree" && find . \( -type f -o -type l \) -print | sed 's|^\.||') >"$list"
    sh "$here/configure"
    echo "installed: $(/usr/bin/flux --version | head -1 | tr -s '\t ' ' ')"
    ;;
--remove)
    [ -e "$list" ] || { echo "install.sh: nothing is installed from a tarball" >&2; exit 1; }
    if [ -d /run/systemd/system ]; then systemctl disable --now flux flux-jobs 2>/dev/null || true; fi
    while read -r file; do rm -f "$file"; done <"$list"
    rm -f "$list"
    rmdir /usr/libexec/flux /usr/share/doc/ferroflux 2>/dev/null || true
    sh "$here/unconfigure"
    echo "removed; /var/lib/flux and /etc/flux are left as they are"
    ;;
*)
    sed -n '2,6s/^# \{0,1\}//p' "$0" >&2
    exit 2
    ;;
esac
