# shellcheck shell=bash
# Sourced: sets variables from the command line, --some-name VALUE or --some_name VALUE
# setting ${some_name}. A name that the script has not set before is an error; so is a
# value other than true or false for a variable that is one of the two. --help prints
# ${help_message}. What follows the options stays in "$@".
while [ $# -gt 0 ]; do
    case "$1" in
        --help | -h)
            echo "${help_message:-No help is found for $0}"
            exit 0 ;;
        --*=*)
            echo "Error: $0: write '${1%%=*} ${1#*=}' instead of '$1'" >&2
            exit 1 ;;
        --?*)
            _option=${1#--}
            _option=${_option//-/_}
            if ! [[ "${_option}" =~ ^[A-Za-z_][A-Za-z0-9_]*$ ]] || [ -z "${!_option+set}" ]; then
                echo "Error: $0: unknown option $1; --help lists the options" >&2
                exit 1
            fi
            if [ $# -lt 2 ]; then
                echo "Error: $0: option $1 needs a value" >&2
                exit 1
            fi
            if [[ "${!_option}" =~ ^(true|false)$ ]] && ! [[ "$2" =~ ^(true|false)$ ]]; then
                echo "Error: $0: option $1 must be true or false, not '$2'" >&2
                exit 1
            fi
            printf -v "${_option}" '%s' "$2"
            shift 2 ;;
        *)
            break ;;
    esac
done
unset _option
