FROM scratch
COPY busybox /bin/busybox
COPY passwd group /etc/
ENV PATH=/bin:/usr/bin
RUN ["/bin/busybox", "mkdir", "-p", "/tmp", "/home/app", "/root", "/usr/bin"]
RUN ["/bin/busybox", "--install", "-s", "/bin"]
RUN chown app:app /home/app && chmod 1777 /tmp
CMD ["/bin/sh"]
