ARG BASE
FROM $BASE
RUN echo a > /a && chmod 600 /a && mkdir -p /d/e /d/f && echo x > /d/x
RUN rm /a && rm -r /d && mkdir /d && echo y > /d/y
RUN mv /d /moved && ln /moved/y /hard && ln -s /nowhere /moved/l
USER app
RUN echo mine > /tmp/mine && mkdir /tmp/dir && ln -s mine /tmp/link && id > /tmp/id && umask > /tmp/umask
WORKDIR /home/app/w/x
RUN echo here > here && pwd > pwd && echo $HOME > home
USER app:staff
RUN echo g > /tmp/group
USER 33
RUN echo n > /tmp/number && id -u > /tmp/uid
USER root:staff
RUN echo r > /tmp/rootgroup
USER root
RUN chown 5:6 /tmp/group && chmod 6755 /tmp/mine && mkfifo /tmp/fifo && chown -h 9:9 /tmp/link
SHELL ["/bin/sh", "-ec"]
RUN echo "$0" > /tmp/shell; false || true
RUN ["/bin/sh", "-c", "echo $1 > /tmp/exec", "sh", "$HOME"]
RUN --mount=type=bind,source=d,target=/m cp /m/one /tmp/bound
RUN --mount=type=tmpfs,target=/t touch /t/x
RUN --mount=type=cache,target=/c touch /c/x
