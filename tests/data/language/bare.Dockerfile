FROM scratch
COPY top.txt d/sub /
WORKDIR /new/dir
COPY --chown=1:2 top.txt .
