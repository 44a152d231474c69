"""TensorRT 8.2 to 11 on a board: plans built from a bundle's graphs, cached, checked and run.

`api.py` lists every attribute of the library that these modules and engines/tensorrt.py touch. Modules whose functions
take the library as `trt` never import it themselves, so that `tensorrt_rtx`, which has the interface of TensorRT 11,
serves as well.
"""
