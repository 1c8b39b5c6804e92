# What package scripts do, one command of each kind.
ARG BASE
FROM ${BASE}
ENV DEBIAN_FRONTEND=noninteractive
RUN apt-get update && apt-get install -y --no-install-recommends acl attr libcap2-bin rsync cpio sudo
COPY commands /
RUN /commands
RUN chown root /t/into/there && touch /t/later && chmod 700 /t/plain && echo more >> /t/copied \
 && mv /t/deep /t/deeper && mv /t/link /t/linked && mv /t/pipe /t/piped && ln /t/one /t/four \
 && cp -a /t/linked /t/linked2 && mv /w /x && rm -rf /v && chown -h 7:7 /t/linked2 \
 && usermod -u 2000 joe && rm /u/t/two && touch /u/t/two
USER joe
WORKDIR /home/joe/work
RUN id -un > /tmp/who && mkdir -p a/b && touch a/b/c && ln -s c a/b/l && mkfifo a/p && cp -r /etc/apt a/
