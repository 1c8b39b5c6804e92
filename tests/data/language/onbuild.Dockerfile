ARG BASE
FROM $BASE
ONBUILD RUN echo trigger "$A"   spaces
ONBUILD COPY --chown=app . /app
ONBUILD ENV A=$B C='d e'
ONBUILD CMD ["a", "b"]
