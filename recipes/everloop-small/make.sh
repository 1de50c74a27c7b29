#!/bin/sh
# From the public files to a model with its card: what `make model` runs. Steps that are done are
# left alone, an interrupted one goes on, so the same command may be given again at any time.
#
#   EVERLOOP_DATA=DIR WORK=work READ_MINUTES=90 TEACH_MINUTES=40 sh recipes/everloop-small/make.sh
set -eu
: "${EVERLOOP_DATA:?Set it to the folder with the public files (see README.md beside this script).}"
here=$(dirname "$0")
work=${WORK:-work}
mkdir -p "$work"

step() {
	printf '== %s\n' "$1" >&2
}

if [ ! -e "$work/built.done" ]; then
	step "public files to text and examples"
	python "$here/build.py"
	touch "$work/built.done"
fi
if [ ! -e "$work/tokenizer/tokenizer.json" ]; then
	step "tokenizer"
	everloop tokenizer train "$here/pretrain.toml" --out "$work/tokenizer" \
		--vocab-size "${VOCAB_SIZE:-6400}" --max-mb 40
fi
if [ ! -e "$work/text/manifest.json" ]; then
	step "text to tokens"
	everloop data pack "$here/pretrain.toml" --tokenizer "$work/tokenizer" --out "$work/text" \
		--val-fraction 0.003
fi
if [ ! -e "$work/examples/manifest.json" ]; then
	step "examples to tokens"
	everloop data pack "$here/sft.toml" --tokenizer "$work/tokenizer" --out "$work/examples" \
		--val-fraction 0.01
fi
if [ ! -e "$work/pretrained/model/config.json" ]; then
	step "reading"
	everloop pretrain "$work/text" --tokenizer "$work/tokenizer" \
		--minutes "${READ_MINUTES:-90}" --out "$work/pretrained"
fi
if [ ! -e "$work/taught/model/config.json" ]; then
	step "learning tasks"
	everloop finetune "$work/pretrained/model" "$work/examples" \
		--minutes "${TEACH_MINUTES:-40}" --balance 0.5 --exit-loss 0.2 --out "$work/taught"
fi
step "card"
everloop evaluate "$work/taught/model" --rows "$here/built" --packed "$work/text" --about "$here" \
	--card "$work/README.md" --out "$work/evaluation"
printf '%s is ready; its card is %s.\n' "$work/taught/model" "$work/README.md" >&2
