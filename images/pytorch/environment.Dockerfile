# The Python packages of a lab, as one layer that changes only with its lock. The wheels come with the build context
# (scripts/images.py puts them there, checked against the lock), so the build has and needs no network.
ARG BASE
FROM ${BASE} AS wheels
# Lets scripts/images.py find and drop this stage afterwards: it holds every wheel a second time.
LABEL io.gpulab.stage=wheels
COPY wheelhouse /tmp/wheelhouse
COPY requirements.lock /tmp/requirements.lock
# - system site packages are on, because only then does pip fall back to ~/.local when an engineer installs something;
#   the venv's own packages still win, so nobody can break the lab's server that way.
# - pip starts from its own wheel, because Debian's python3 comes without ensurepip.
# - bytecode is compiled here, once and on all cores, and not by every start of every lab. Some packages ship files that
#   are not meant for this Python (templates, tests); compileall says so by its status, which is no failure here.
RUN python3 -m venv --without-pip --system-site-packages /opt/lab \
 && /opt/lab/bin/python "$(echo /tmp/wheelhouse/pip-*.whl)/pip" install --no-index --find-links /tmp/wheelhouse \
        --require-hashes --no-deps --no-cache-dir --no-compile --quiet --root-user-action=ignore \
        -r /tmp/requirements.lock \
 && { /opt/lab/bin/python -m compileall -q -j 0 /opt/lab/lib >/dev/null || true; }

FROM ${BASE}
COPY --from=wheels /opt/lab /opt/lab
RUN groupadd --gid 1000 engineer \
 && useradd --uid 1000 --gid 1000 --create-home --shell /bin/bash engineer \
 && mkdir -p /workspace/data /workspace/models /opt/gpulab \
 && chown engineer:engineer /workspace /workspace/data /workspace/models
