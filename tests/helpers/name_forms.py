"""A list of two people, Ann_Lee and José Ruiz, in the shapes in which lists of test sets come."""

from __future__ import annotations

import unicodedata

FORMS = {
    "plain": "Ann_Lee\nJosé Ruiz\n",
    "bom": "\ufeffAnn_Lee\nJosé Ruiz\n",
    "windows": "\ufeffAnn_Lee\r\nJosé Ruiz\r\n",
    "old mac": "Ann_Lee\rJosé Ruiz\r",
    "decomposed": unicodedata.normalize("NFD", "Ann_Lee\nJosé Ruiz\n"),
    "slash": "Ann_Lee/\nJosé Ruiz/\n",
    "backslash": "Ann_Lee\\\nJosé Ruiz\\\n",
    "csv": "name,images\nAnn_Lee,3\nJosé Ruiz,5\n",
    "quoted csv": '"Ann_Lee",3\n"José Ruiz",5\n',
    "semicolons": "Ann_Lee;3\nJosé Ruiz;5\n",
    "people.txt": "2\nAnn_Lee\t3\nJosé Ruiz\t5\n",
    "counted": "Ann_Lee 3\nJosé Ruiz 5\n",
    "pairs.txt": "1\t1\nAnn_Lee\t1\t2\nAnn_Lee\t1\tJosé Ruiz\t2\n",
    "pairs without head": "Ann_Lee\t1\t2\nAnn_Lee\t1\tJosé Ruiz\t2\n",
    "pairs.csv": "name,imagenum1,name,imagenum2\nAnn_Lee,1,José Ruiz,2\nAnn_Lee,1,4,\n",
    "path pairs": "Ann_Lee/1.jpg\tJosé Ruiz/2.jpg\t0\n",
    "paths": "Ann_Lee/Ann_Lee_0001.jpg\nlfw/José Ruiz/x.png\n",
    "paths without suffix": "Ann_Lee/Ann_Lee_0001\nJosé Ruiz/José Ruiz_0002\n",
    "pictures": "Ann_Lee_0001.jpg\nJosé Ruiz_0012.jpg\n",
    "lst": "0\t0\tAnn_Lee/1.jpg\n1\t1\tJosé Ruiz/2.jpg\n",
    "blanks": "\n  Ann_Lee  \n\n\tJosé Ruiz\n\n",
}
