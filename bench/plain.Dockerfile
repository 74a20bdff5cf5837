# The peer's image: `pip install jupyterhub jupyterlab ipywidgets`, nothing else. It stands on the labs' own base, and the
# wheels that come with the build context are the labs' own, so both images have the same versions. Built without network.
ARG BASE
FROM ${BASE} AS wheels
LABEL io.gpulab.stage=bench-wheels
COPY wheelhouse /tmp/wheelhouse
RUN python3 -m venv --without-pip /opt/jupyter \
 && /opt/jupyter/bin/python "$(echo /tmp/wheelhouse/pip-*.whl)/pip" install --no-index --find-links /tmp/wheelhouse \
        --no-cache-dir --quiet --root-user-action=ignore \
        jupyterhub jupyterlab ipywidgets

FROM ${BASE}
COPY --from=wheels /opt/jupyter /opt/jupyter
RUN useradd --uid 1000 --create-home --shell /bin/bash jovyan
ENV PATH=/opt/jupyter/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    LANG=C.UTF-8
USER jovyan
WORKDIR /home/jovyan
EXPOSE 8888
CMD ["jupyterhub-singleuser"]
