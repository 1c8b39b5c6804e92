# Compilers and interpreters: many files, few owners; a proof that nothing is changed needlessly.
ARG BASE
FROM ${BASE}
ENV DEBIAN_FRONTEND=noninteractive
RUN apt-get update && apt-get install -y --no-install-recommends \
    gcc python3-venv texinfo nodejs libpam-modules uuid-runtime screen plocate
