ARG BASE
ARG GLOBAL=global
FROM $BASE
ARG GLOBAL
ARG plain=value
ARG empty=
ARG unset
ENV a=1 b="two words" c='single $a' d=back\ slash e="quoted \"x\"" f=$a g=${a}x h=\$a
ENV i=${nope:-default} j=${a:+alt} k=${empty:-def} m=${unset:-u} n=${nope:+x}
ENV legacy  a value with  spaces
ENV o=$plain p=$GLOBAL
RUN env | grep -E '^[a-p]=|^legacy=|^GLOBAL|^plain' | sort > /env
WORKDIR /$a/${b}
RUN pwd > /pwd
COPY ${nope:-top.txt} /copied-$a
LABEL l="$b" m=$c
EXPOSE $a${a}
USER ${nope:-app}
RUN id -un > /tmp/user
