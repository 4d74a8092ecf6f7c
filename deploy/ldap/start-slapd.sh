#!/bin/sh
# start-slapd.sh DIR PORT: starts an OpenLDAP server for qianyan to publish to, from nothing or again, on
# ldap://127.0.0.1:PORT. DIR gets its data, slapd.conf (made once; yours to change), and `password` (mode 0600), the
# publisher's. It runs in the foreground; stop it with Ctrl-C or SIGTERM.
#
# Environment: SUFFIX (dc=qianyan), ROOT (cn=publisher,SUFFIX), HOST (127.0.0.1), MAXSIZE in bytes (17179869184),
# TLS_CERTIFICATE, TLS_KEY (PEM; with them StartTLS is offered, and ldaps:// on TLS_PORT where that is set).
set -eu
[ $# -eq 2 ] || { sed -n '2,9s/^# \{0,1\}//p' "$0" >&2; exit 2; }
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1/data"
dir=$(cd "$1" && pwd)
port=$2
suffix=${SUFFIX:-dc=qianyan}
root=${ROOT:-cn=publisher,$suffix}
host=${HOST:-127.0.0.1}
PATH=$PATH:/usr/sbin:/usr/local/libexec
command -v slapd >/dev/null || { echo "start-slapd.sh: there is no slapd; install OpenLDAP's server (Debian: slapd)" >&2; exit 1; }
schema=""
for candidate in /etc/ldap/schema /etc/openldap/schema /usr/local/etc/openldap/schema; do
    [ -f "$candidate/core.schema" ] && { schema=$candidate; break; }
done
modules=""
for candidate in /usr/lib/ldap /usr/lib64/openldap /usr/lib/openldap /usr/local/libexec/openldap; do
    [ -e "$candidate/back_mdb.so" ] || [ -e "$candidate/back_mdb.la" ] && { modules=$candidate; break; }
done
[ -n "$schema" ] || { echo "start-slapd.sh: OpenLDAP's core.schema was not found" >&2; exit 1; }
umask 077
if [ ! -s "$dir/password" ]; then
    od -An -N24 -tx1 /dev/urandom | tr -d ' \n' >"$dir/password.new"
    mv "$dir/password.new" "$dir/password"
fi
if [ ! -s "$dir/slapd.conf" ]; then
    tls=""
    [ -z "${TLS_CERTIFICATE:-}" ] || tls="TLSCertificateFile $TLS_CERTIFICATE\\nTLSCertificateKeyFile $TLS_KEY\\n"
    sed -e "s|@SCHEMA@|$schema|" -e "s|@HERE@|$here|" -e "s|@MODULES@|$modules|" -e "s|@DIR@|$dir|" \
        -e "s|@TLS@|$tls|" -e "s|@SUFFIX@|$suffix|" -e "s|@ROOT@|$root|" -e "s|@MAXSIZE@|${MAXSIZE:-17179869184}|" \
        -e "s|@PASSWORD@|$(cat "$dir/password")|" "$here/slapd.conf.in" >"$dir/slapd.conf.new"
    [ -n "$modules" ] || sed -i -e '/^module/d' "$dir/slapd.conf.new"
    mv "$dir/slapd.conf.new" "$dir/slapd.conf"
fi
urls="ldap://$host:$port"
[ -z "${TLS_PORT:-}" ] || urls="$urls ldaps://$host:$TLS_PORT"
exec slapd -f "$dir/slapd.conf" -h "$urls" -d none
