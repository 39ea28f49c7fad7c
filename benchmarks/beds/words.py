"""Words that invented rows are made of."""

WORDS = {
    kind: words.split()
    for kind, words in {
        "first": "Abel Amara Basil Bettina Caius Clemence Darius Delphine Eamon Elspeth Fabian Freya Gareth Giselle Hamish Imogen Isidor "
        "Jocasta Keir Leonie Lucan Maren Nestor Odile Percival Quentin Romola Silas Tamsin Ursula Viggo Winifred",
        "last": "Aldane Barrowby Corvane Delacort Estermont Fenwright Galbraith Holloway Inverness Jarrow Kestering Lorimer Mortlake "
        "Nightingale Osterley Penhallow Quillon Ravenscroft Stroud Tarrant Upjohn Vandermeer Wexcombe Yelland Zouche Ambrose "
        "Brisco Carrow",
        "city": "Ardmore Belcastro Corriveau Dunhaven Estrella Farrowdale Glenwick Hartmoor Islington Jasperville Kilbride Larkspur "
        "Montclare Northolt Orchardton Pellworm Queensferry Rotherby Stavenholm Tolverne Ulverton Varsity Wrenfield Yarmouth",
        "genre": "mystery romance satire horror fantasy travel crime poetry war memoir gothic western maritime pastoral",
        "trade": "baker judge sailor dentist farmer barber tailor nurse pilot weaver miner clerk banker butcher surgeon cooper shepherd "
        "chemist printer gardener painter brewer mason lawyer",
        "adjective": "amber broken crimson distant empty frozen gilded hollow idle jagged knotted lonely marble narrow old patient quiet rusty "
        "silver tangled unlit velvet wooden yellow bitter curious drowned eager",
        "thing": "anchor bridge candle drum engine feather garden hammer island jar kettle lantern mirror needle orchard piano quarry "
        "river saddle tower umbrella violin window yard zither basket compass door ember flute",
        "did": "lifted painted followed buried carried mended ignored sold found watched borrowed cleaned guarded measured hid dropped",
        "ort": "Möll Grün Süd Höll Brück Käs Tür Büß Lämm Nöt Rüb Gäns Fähr Köh Schön Mühl Öd Wäld Hüh Dörn",
        "ort ende": "dorf hausen bühl weiler stätt brück berg öden thal rönne",
        "vorname": "Jörg Käthe Günter Bärbel Jürgen Änne Rüdiger Sören Hélène Björn Mäxchen Döris",
        "speise": "Knödel Äpfel Nüsse Brötchen Rüben Klöße Pfannküchlein Möhren Gänsekeule Spätzle",
        "month": "January February March April May June July August September October November December",
        "όνομα": "Αλέξανδρος Βασίλης Γιάννης Δημήτρης Ευάγγελος Ζήσης Ηλίας Θανάσης Ιάσονας Κώστας Λεωνίδας Μιχάλης Νικηφόρος Ξενοφώντας "
        "Οδυσσέας Παντελής Ραφαήλ Σπύρος Τιμολέων Φώτης",
        "επώνυμο": "Αγγελόπουλος Βλάχος Γεωργίου Δούκας Ευσταθίου Ζαχαρίας Θεοτόκης Ιωάννου Καλλέργης Λάμπρου Μαυρίδης Νικολαΐδης Ξανθόπουλος "
        "Οικονόμου Παπαδάκης Ράλλης Σταυρίδης Τρικούπης Υψηλάντης Φραγκούλης",
        "πόλη": "Άρτα Βέροια Γύθειο Δράμα Έδεσσα Ζαγορά Θήβα Ιτέα Καβάλα Λαμία Μυτιλήνη Νάουσα Ξάνθη Όλυμπος Πάργα Ρόδος Σπάρτη Τρίπολη Ύδρα Φλώρινα",
        "επάγγελμα": "ψαράς δάσκαλος γιατρός ναύτης μάγειρας ράφτης κτίστης βοσκός φούρναρης δικηγόρος "
        "ζωγράφος κηπουρός οδηγός σιδεράς χτενάς ψάλτης",
        "φαγητό": "ψωμί τυρί σπανάκι ρύζι κρέας ψάρι μέλι σύκα αμύγδαλα καρύδια κάστανα μανιτάρια φασόλια αυγά σταφύλια ρεβίθια",
        "ποτό": "κρασί γάλα τσάι νερό ούζο τσίπουρο κακάο ρακόμελο αριάνι σαλέπι",
        "ποιο": "Γαλάζιο Παλιό Γρήγορο Μικρό Χρυσό Ήσυχο Άγριο Λευκό Μαύρο Κρυφό Τρελό Γλυκό",
        "πράγμα": "Κύμα Αστέρι Νησί Πουλί Φεγγάρι Δελφίνι Όνειρο Βουνό Ποτάμι Λιμάνι Σύννεφο Τραγούδι",
    }.items()
}
