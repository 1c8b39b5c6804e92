ARG BASE
FROM $BASE AS made
RUN mkdir -p /m/priv /m/pub && echo a > /m/priv/a && ln /m/priv/a /m/pub/h && ln -s priv /m/l \
    && chown -R app:staff /m/priv && chmod 0750 /m/priv && chmod 4711 /m/priv/a
FROM $BASE
COPY top.txt /
COPY top.txt /renamed
COPY top.txt /made/dir/
COPY top.txt /made/parents/name
COPY d /whole
COPY d/ /whole-slash/
COPY d/one d/two.txt /several/
COPY d/*.txt /pattern/
COPY d/a? /question/
COPY d/[f-h]* /class/
COPY ["d/one", "/json dir/a b"]
COPY totop /followed
COPY tod /followed-dir
COPY d/link d/absolute d/climbing /linked/
COPY modes /modes
COPY --chown=app d /owned-name
COPY --chown=app:staff top.txt /owned-group
COPY --chown=55 top.txt /owned-number
COPY --chown=55:66 d/sub /new/dirs/owned-both
COPY --chmod=0640 top.txt /mode-file
COPY --chmod=0700 d/sub /mode-dir
COPY --from=made /m /from-stage
COPY --from=0 /m/l /from-link
COPY --from=made --chown=0:0 /m/priv /from-owned
WORKDIR /work
COPY top.txt .
COPY top.txt ./
COPY d/sub rel
RUN mkdir -p /target/sub && ln -s /target /tolink && echo old > /target/top.txt && chmod 700 /target/sub
COPY top.txt /tolink/
COPY d/sub /tolink/sub
RUN ln -s /target/new /dangling
COPY top.txt /dangling
COPY other /whole
COPY .hidden /hid/
COPY ig /ignored
