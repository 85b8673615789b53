# shellcheck shell=bash
# What the scripts of this directory share. Source it; it prints and installs nothing by itself.

tools=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck disable=SC2034  # for those who source this
root=$(dirname "$tools")

# Where daemons are; a PATH that names such a directory is taken as it is.
case "$PATH:" in
    */sbin:*) ;;
    *) PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin" ;;
esac
# Whatever was set for another Python must not reach ours.
unset PYTHONPATH PYTHONHOME PYTHONSTARTUP PYTHONWARNINGS VIRTUAL_ENV

say() { printf '%s\n' "$*"; }

complain() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }

fail() { complain "$@"; exit 1; }

# interrupt PID: end it as by Ctrl-C; by SIGTERM where it ignores that, as bash has every child do
# that it starts by `&`, until `env` runs.
interrupt() {
    local number=INT
    ! grep -qs '^SigIgn:.*[2367abef]$' "/proc/$1/status" || number=TERM
    kill -"$number" "$1" 2>/dev/null || true
}

# foreground COMMAND...: run it to its end and return its status. Unlike a plain command, it is told
# at once when this script is asked to stop: Ctrl-C reaches it from the terminal by itself, SIGTERM
# and SIGHUP are passed on as SIGINT, which works even where a script started all this by `&`.
foreground() {
    local child='' signalled='' status
    # Before there is a child, which may be signalled as soon as it is there.
    trap 'signalled=yes' INT
    trap 'signalled=yes; [ -z "$child" ] || interrupt "$child"' TERM HUP
    env --default-signal=INT,QUIT "$@" <&0 &
    child=$!
    [ -z "$signalled" ] || interrupt "$child"
    signalled=yes
    while [ -n "$signalled" ]; do
        signalled=
        status=0
        wait "$child" || status=$?
    done
    trap - INT TERM HUP
    # Bash loses the status of a child that ends in the very moment of a Ctrl-C.
    [ "$status" != -1 ] || status=130
    return "$status"
}

# Debian's package for a command. PYTHON-venv stands for the ability of that Python to make virtual
# environments: Debian keeps half of its venv module in a package of its own.
package_of() {
    case "$1" in
        *-venv) "${1%-venv}" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])' ;;
        tor | tor-resolve) echo tor ;;
        danted) echo dante-server ;;
        systemd-*) echo systemd ;;
        setpriv) echo util-linux ;;
        nc.openbsd) echo netcat-openbsd ;;
        ssh | ssh-keygen) echo openssh-client ;;
        sshd) echo openssh-server ;;
        apt-get) echo apt ;;
        node) echo nodejs ;;
        undici) echo node-undici ;;
        promtool) echo prometheus ;;
        *) echo "$1" ;;
    esac
}

# missing_commands COMMAND...: print those that are not there; undici is a library of Node's.
missing_commands() {
    local name
    for name; do
        case "$name" in
            *-venv) "${name%-venv}" -c 'import ensurepip, venv' 2>/dev/null || echo "$name" ;;
            undici) [ -e /usr/share/nodejs/undici ] || echo "$name" ;;
            *) command -v "$name" >/dev/null || echo "$name" ;;
        esac
    done
}

# packages_of: read commands, one a line; print Debian's packages for them, each once.
packages_of() {
    local name
    while read -r name; do package_of "$name"; done | sort -u
}

# may_install: is this a Debian, and may we install packages without asking for a password?
may_install() {
    command -v apt-get >/dev/null && { [ "$(id -u)" = 0 ] || sudo -n true 2>/dev/null; }
}

# install_packages PACKAGE...: install Debian packages; starts no service.
install_packages() {
    local as_root=()
    [ "$(id -u)" = 0 ] || as_root=(sudo -n)
    say "Installing Debian packages: $*"
    "${as_root[@]}" bash "$tools/install-packages" "$@"
}

# how_to_install PACKAGE...: the one sentence for those who must do it themselves.
how_to_install() {
    if command -v apt-get >/dev/null; then
        echo "please run 'sudo apt-get install $*' and try again."
    else
        echo "please install these programs (named here as Debian packages them) and try again: $*."
    fi
}

# need_packages COMMAND...: see that every command is there; install Debian's packages for those
# that are not, if we may.
need_packages() {
    local missing names packages
    missing=$(missing_commands "$@")
    [ -n "$missing" ] || return 0
    mapfile -t packages <<<"$(packages_of <<<"$missing")"
    if may_install; then
        install_packages "${packages[@]}" || return 1
        missing=$(missing_commands "$@")
        [ -n "$missing" ] || return 0
    fi
    mapfile -t names <<<"$missing"
    complain "cannot find ${names[*]##*/}: $(how_to_install "${packages[@]}")"
    return 1
}
