FROM fedora-like
RUN printf '[keeper]\nname=keeper\nbaseurl=file:///repo/rpm\ngpgcheck=0\n' > /etc/yum.repos.d/keeper.repo
RUN dnf --releasever=40 install -y keeper
