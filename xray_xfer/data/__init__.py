"From a folder or a table to decoded images in three parts"
import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs={
    'table': ['images_of'],
    'packing': ['pack'],
    'folds': ['folds_of'],
    'splitter': ['StratifiedSplitter'],
})
