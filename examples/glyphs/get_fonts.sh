#!/bin/sh
# Unpacks the fonts of the example under a directory, without installing them: sh get_fonts.sh build/fonts
# Needs a Debian or Ubuntu with package lists (apt-get update) and no root. Packages that the release no longer has are
# named and left out; versions differ a little between releases, and the images with them.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1"
cd "$1"
for package in $(cat "$here/fonts.txt"); do
    if apt-get download -qq "$package" 2>/dev/null; then
        dpkg-deb -x "$package"_*.deb .
        rm "$package"_*.deb
    else
        echo "get_fonts: this release has no package '$package'" >&2
    fi
done
