# SPDX-License-Identifier: Apache-2.0
# Functions for scripts that make roots of Debian: where the machine's own packages come from, and
# what makes a root.
# shellcheck shell=bash

debian_mirror() {  # LABEL: the mirror of the archive that is called so: Debian, or Debian-Security
  apt-get indextargets --format '$(REPO_URI) $(LABEL)' 'Created-By: Packages' 2>/dev/null |
    sed -n "/ $1\$/{s/ .*//p;q}"
}

# Prints why no root can be made, if so; installs the packages that are missing otherwise.
why_no_root() {  # PACKAGE...
  local missing=() package
  [ "$(id -u)" = 0 ] || { echo 'only root can make one'; return; }
  command -v apt-get >/dev/null || { echo 'this machine has no apt-get'; return; }
  unshare --mount --pid --fork true 2>/dev/null || { echo 'namespaces are not permitted here'; return; }
  for package; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q ' installed$' || missing+=("$package")
  done
  # The list of what mirrors serve, which a fresh machine has not got yet, names the mirror, too.
  if [ ${#missing[@]} != 0 ] || [ -z "$(debian_mirror Debian)" ]; then
    apt-get update -qq >&2 || { echo 'apt-get update failed'; return; }
  fi
  if [ ${#missing[@]} != 0 ]; then
    DEBIAN_FRONTEND=noninteractive apt-get install -qqy --no-install-recommends "${missing[@]}" >&2 ||
      { echo "apt-get does not install ${missing[*]}"; return; }
  fi
  [ -n "$(debian_mirror Debian)" ] || echo "apt's sources name no mirror of Debian"
}

apt_elsewhere() {  # FOLDER ARCHITECTURE SOURCE: settings there that leave the machine's own apt alone
  mkdir -p "$1"/{lists/partial,cache/archives/partial}
  echo "$3" >"$1/sources.list"
  cat >"$1/apt.conf" <<END
APT::Architecture "$2";
APT::Architectures { "$2"; };
APT::Sandbox::User "root";
Acquire::Check-Valid-Until "false";
Acquire::Languages "none";
Dir::Cache "$1/cache";
Dir::Etc::SourceList "$1/sources.list";
Dir::Etc::SourceParts "/dev/null";
Dir::State::Lists "$1/lists";
Dir::State::Status "/dev/null";
END
  APT_CONFIG=$1/apt.conf apt-get update -qq
}
