# Servers that make users and data directories of their own.
ARG BASE
FROM ${BASE}
ENV DEBIAN_FRONTEND=noninteractive
RUN printf '#!/bin/sh\nexit 101\n' > /usr/sbin/policy-rc.d && chmod 755 /usr/sbin/policy-rc.d
RUN apt-get update && apt-get install -y --no-install-recommends \
    postgresql mariadb-server redis nginx apache2 ssl-cert
