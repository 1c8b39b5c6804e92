ARG BASE
FROM $BASE
ADD tars/a.tar /plain
ADD tars/a.tar.gz /gz/
ADD tars/a.tar.bz2 /bz2/
ADD tars/a.tar.xz /xz/
ADD tars/not.tar.gz /not/
ADD tars/a.tar tars/a.tar.gz tars/not.tar.gz /all/
ADD tars /dir/
ADD --chown=app top.txt /owned/
RUN mkdir -p /over/deep && echo old > /over/three.txt && chmod 700 /over/deep
ADD tars/a.tar /over/
