ARG BASE
FROM ${BASE}
RUN apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
    rpm dnf zypper pacman-package-manager createrepo-c makepkg libarchive-tools fakeroot libcap2-bin acl
COPY keeper.spec shell.spec PKGINFO INSTALL make-repositories /specs/
RUN /specs/make-repositories
RUN rm /etc/os-release /etc/debian_version
