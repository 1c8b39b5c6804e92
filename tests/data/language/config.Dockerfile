ARG BASE
FROM $BASE
LABEL maintainer="Me" version=1 "two words"="x y" multi="a\
b"
ENV A=1 PATH=/opt/bin:$PATH
EXPOSE 8080/tcp 53/udp 90
EXPOSE 100-102
VOLUME /data
VOLUME ["/log", "/var/db"]
WORKDIR /srv
USER 1000:1000
STOPSIGNAL SIGINT
HEALTHCHECK --interval=5s --timeout=3s --start-period=1m --retries=2 CMD test -e /ok
SHELL ["/bin/sh", "-xc"]
ENTRYPOINT ["/bin/busybox", "sh"]
CMD echo hello "$A"
